"""The contracts that plugins implement and the objects that they are given."""
