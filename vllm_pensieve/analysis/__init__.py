"""What traces tell: cache simulation, summaries, figures and reports. Imports neither torch nor vLLM."""
