"""Evaluate one variant, or with -m a whole sweep in one fused pass.

python experiments/evaluate.py attention=csa dataset=patchwork
python experiments/evaluate.py -m attention=vanilla,csa,maskclip
python experiments/evaluate.py -m experiment=temperature
"""

import sys

from sclip_lab.cli.main import script

if __name__ == "__main__":
    script(["evaluate", *sys.argv[1:]])
