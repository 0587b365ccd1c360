"""The world of coloured shapes, without torch: scenes, captions, renders, the verifier, and the trained weights."""
