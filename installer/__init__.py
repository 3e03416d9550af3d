"""Sets Paddock up on a machine that has nothing but Python (and a compiler): what `launch.py` calls.

Standard library only: it runs before anything is installed. It knows how to look at the machine, which builds of torch
and llama.cpp fit it, and how to run the checks. It knows nothing of `modules`.
"""
