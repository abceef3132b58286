"""What happens to a picture."""
