"""What computes: processes, their devices and their memory."""
