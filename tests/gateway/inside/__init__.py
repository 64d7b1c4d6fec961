"""What a gateway tells whoever runs it: metrics, logs, traces."""
