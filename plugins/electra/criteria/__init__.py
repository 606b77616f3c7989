"""What corrupted views are judged by."""
