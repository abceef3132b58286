"""The processes of one machine, and who looks after them."""
