"""The speed of the framework beside loops written by hand and other trainers."""
