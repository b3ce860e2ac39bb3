"README.md from nbs/index.ipynb, by nbconvert: `python .ci/readme.py ROOT`, where ROOT holds `nbs`."
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(sys.argv[1])
notebook = nbformat.read(root / "nbs" / "index.ipynb", 4)
notebook.metadata["language_info"] = {"name": "python"}
first_line = lambda cell: cell.source.split("\n", 1)[0].replace(" ", "")
notebook.cells = [cell for cell in notebook.cells if first_line(cell) != "#|hide"]
for cell in notebook.cells:
    if first_line(cell) == "#|echo:false": cell.metadata["transient"] = {"remove_source": True}

template = "nbs/readme_files/{cell_index}_{index}{extension}"
config = Config({"ExtractOutputPreprocessor": {"enabled": True, "output_filename_template": template}})
text, resources = MarkdownExporter(config=config).from_notebook_node(notebook)
folder = root / "nbs" / "readme_files"
folder.mkdir(exist_ok=True)
for old in folder.iterdir(): old.unlink()
for name, content in resources["outputs"].items(): (root / name).write_bytes(content)
titles = iter(("a photograph and rendered faces, and their labels", "the labeller in JupyterLab"))
described = re.sub(r"!\[(png|jpeg)\]", lambda match: f"![{next(titles)}]", text.strip())
stripped = "\n".join(line.rstrip() for line in described.splitlines())
head = "<!-- made from nbs/index.ipynb by `make readme` -->\n\n"
(root / "README.md").write_text(head + re.sub(r"\n{3,}", "\n\n", stripped) + "\n")
