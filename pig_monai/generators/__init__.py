"""Networks that predict the noise in an image, given a condition: guiders, and generators of three kinds.

Each is called as ``network(noisy, timesteps, condition, spacing)``:

- ``noisy``: (B, C, W, H), the image at its noise level: a guider's mask, a generator's slice or latent;
- ``timesteps``: (B,), in [0, T);
- ``condition``: (B, C', W, H) on the same grid; one of zeros says that nothing is known of it;
- ``spacing``: (B, 2), mm a pixel in x and y, 0 where unknown, or None; networks without that input ignore it;

and returns the shape of ``noisy``. Its ``spec`` says how to build it again (`pig_monai.networks`).
"""
