"""Files: atomic writes, tensors, remote files, hashes, and the console."""
