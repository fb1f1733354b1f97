"""The mathematics: noise, targets, weightings, objectives, sampling. Torch alone; the ComfyUI nodes copy it."""
