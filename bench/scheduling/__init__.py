"""What a scheduler is worth: one trace through vLLM's own and through ours, in virtual time."""
