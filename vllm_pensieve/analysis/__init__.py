"""What traces show: cache simulation, summaries, figures and reports. Imports neither torch nor vLLM."""
