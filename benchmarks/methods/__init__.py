"""What each method costs and gains."""
