"""What the bridge costs beyond what `bench` shows: its HTTP stack, first tokens, held streams."""
