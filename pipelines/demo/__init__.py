"""The demo: the main job on real input, without a key."""
