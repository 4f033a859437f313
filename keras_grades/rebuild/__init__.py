"""The train step, compiled again without what is frozen: how, and when."""
