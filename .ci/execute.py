"Execute notebooks in place, as they are committed: in their own folders, without progress bars."
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

for path in map(Path, sys.argv[1:]):
    notebook = nbformat.read(path, 4)
    where = {"metadata": {"path": str(path.resolve().parent)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=where).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)
    subprocess.run([Path(sys.executable).with_name("nbdev_clean"), "--fname", path], check=True)
