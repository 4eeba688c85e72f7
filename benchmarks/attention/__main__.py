"""`python -m benchmarks.attention`, in the folder that holds `benchmarks`: the same as `pensieve bench kernels`."""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "kernels"]
    main()
