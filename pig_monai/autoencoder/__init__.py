"""The autoencoder of latent generators: network, losses, training, latents, evaluation."""
