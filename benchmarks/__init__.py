"""What the product costs; `make bench` runs it all."""
