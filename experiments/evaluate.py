"""Evaluate one variant, or with -m a whole sweep in one fused pass.

python experiments/evaluate.py attention=csa dataset=patchwork
python experiments/evaluate.py -m attention=vanilla,csa,maskclip
python experiments/evaluate.py -m experiment=temperature
"""

from sclip_lab.run import collector

if __name__ == "__main__":
    with collector.seldom():
        from sclip_lab.cli.evaluate import main

        main()
