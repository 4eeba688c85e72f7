"""`python -m vllm_pensieve`: the same as the command `pensieve`."""

from vllm_pensieve.cli import main

if __name__ == "__main__":
    main()
