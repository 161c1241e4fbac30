"""prefloop: from people's rankings of model answers to a checkpoint that is shown to be better."""
