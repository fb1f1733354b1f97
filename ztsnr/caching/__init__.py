"""From folders of images to a cache of latents and texts that training reads."""
