"""What surrounds a training step: batches, EMA, learning rate, handlers, the state to resume from."""
