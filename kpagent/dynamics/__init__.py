"""Keypoints to futures: Struct-VRNN (Minderer et al. 2019), its ablations and what is built on its latents."""
