"""What the product does on a GPU: a module a part, and a runner for all of them."""
