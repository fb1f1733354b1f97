"""The mathematics: noise, targets, weightings, objectives, sampling. Imports only torch; the ComfyUI nodes copy it."""
