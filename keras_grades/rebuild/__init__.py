"""How and when the train step is compiled again without frozen components."""
