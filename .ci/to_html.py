"A study that has run -> one HTML file, by nbconvert: `python .ci/to_html.py RUN.ipynb OUT.html`."
import sys
from pathlib import Path

from nbconvert import HTMLExporter

STUDIES = Path(__file__).resolve().parents[1] / "nbs" / "studies"


def write_html(run, out):
    "Render a study that has run, without its code."
    without_code = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="report", extra_template_basedirs=[str(STUDIES)], **without_code)
    text, _ = exporter.from_filename(str(run))
    Path(out).write_text(text)


if __name__ == "__main__":
    write_html(*sys.argv[1:])
