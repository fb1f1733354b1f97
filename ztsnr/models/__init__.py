"""Networks: network(z, t, label=...) -> output, like z (B, C, H, W); t (B,) and label (B,)."""
