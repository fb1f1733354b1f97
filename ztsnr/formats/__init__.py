"""How other programs name and store weights; needs torch and safetensors alone."""
