"""Fine-tuning: data to samples, samples to tokens with labels, tokens to an adapter, and the proof of what changed. Runs in job processes."""
