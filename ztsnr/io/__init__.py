"""Files: written whole or not at all, tensors, and what is read from elsewhere."""
