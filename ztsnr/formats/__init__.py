"""How other programs name and store weights; needs only torch and safetensors."""
