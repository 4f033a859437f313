"""What is put on a user's model for one `fit()`, and its way back."""
