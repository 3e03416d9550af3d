"""One engine over any `Runner`: continuous batching, sampling, text, and the child process it lives in."""
