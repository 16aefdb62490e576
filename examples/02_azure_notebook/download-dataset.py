"""Write the first rows of a hub set as DIR/SPLIT.jsonl, under the options that Azure ML's tutorial passes."""

import argparse
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="HuggingFaceH4/ultrachat_200k", help="the set's id on the hub")
parser.add_argument("--download_dir", default="data", help="the folder that gets a file for each split")
parser.add_argument("--dataset_split_pc", type=float, default=1.0, help="per cent of each split, from its beginning")
options = parser.parse_args()

argv = ["data", "download", options.dataset, "--percent", str(options.dataset_split_pc), "--out", options.download_dir]
sys.exit(subprocess.run([sys.executable, "-m", "penala", *argv], check=False).returncode)
