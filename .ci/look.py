"""What `make look` runs: the labeller and the reports in a real browser.

Opens nbs/studies/label.ipynb in JupyterLab and headless Chromium, paints with mouse, pen and fingers, trains,
kills the kernel at random moments, and compares the files with what was painted. Prints a line a check, and
last `N passed, M failed`. Screenshots, of the published reports too, go to reports/look."""
import argparse
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
WIDTH, HEIGHT = 1280, 1400  # of the window, in pixels
WAIT = 300  # seconds for JupyterLab and the first prediction on a busy machine
PICTURES = ROOT / "reports" / "look"
LABELLER = ".faceseg-labeller"  # the element on the page
BRUSH = 8  # the radius that the labeller begins with, where the longer side of a photograph is 512
LATENCY = 50  # milliseconds from a pointer's movement to the picture
passed, failed = [], []

# measures, for each movement over the canvas, how long its drawing took to be ready for the screen
MEASURE = """
const canvas = document.querySelector('.faceseg-labeller canvas');
window.latencies = [];
canvas.addEventListener('pointermove', event => {
  if (!event.buttons) return;
  requestAnimationFrame(() => {  // the labeller draws in this frame
    const channel = new MessageChannel();
    channel.port1.onmessage = () => window.latencies.push(performance.now() - event.timeStamp);
    channel.port2.postMessage(0);  // after the frame is drawn
  });
});"""


def check(name, ok, why=""):
    "Count a check, and print it."
    (passed if ok else failed).append(name)
    print(f"{'ok    ' if ok else 'FAILED'} {name}{'' if ok else f': {why}'}", flush=True)


def missing():
    "What is not here that this needs; empty where all is."
    lacks = []
    if not any(map(shutil.which, BROWSERS)): lacks.append("Chromium")
    if not any(map(shutil.which, DRIVERS)): lacks.append("ChromeDriver")
    for module in ("selenium", "anywidget"):
        try: __import__(module)
        except ImportError: lacks.append(module)
    return lacks


def browser():
    "A headless Chromium."
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for one in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-device-scale-factor=1",
                "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(one)
    return webdriver.Chrome(options, Service(next(filter(None, map(shutil.which, DRIVERS)))))


def until(condition, what, seconds=WAIT):
    "Wait until something holds, and return it."
    end = time.time() + seconds
    while time.time() < end:
        if found := condition(): return found
        time.sleep(0.05)
    raise TimeoutError(f"after {seconds} seconds there is no {what}")


class Lab:
    "JupyterLab with the labeller's notebook, in a folder of its own, and a browser that shows it."
    def __init__(self, scratch, settings):
        self.scratch, self.home = scratch, scratch / "home"
        study, notebook = ROOT / "nbs" / "studies" / "label.ipynb", scratch / "label.ipynb"
        given = [part for key, value in settings.items() for part in ("-r", key, value)]
        subprocess.run([sys.executable, "-m", "papermill", "--prepare-only", study, notebook, *given,
                        "-r", "home", self.home], check=True, capture_output=True)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        log, token = (scratch / "jupyter.log").open("w"), secrets.token_hex()
        folders = {f"JUPYTER_{kind}_DIR": str(scratch / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={port}", "--ip=127.0.0.1",
             "--allow-root", f"--ServerApp.root_dir={scratch}", f"--IdentityProvider.token={token}",
             "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
             "--KernelRestarter.restart_limit=1000"],
            stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **folders})
        self.url = f"http://127.0.0.1:{port}"
        until(self.answers, "answer of JupyterLab")
        self.driver = browser()
        self.driver.set_script_timeout(WAIT)
        self.driver.get(f"{self.url}/lab/tree/label.ipynb?reset&token={token}")
        until(lambda: self.js("return window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')"),
              "notebook")
        self.until_idle()

    def answers(self):
        try: return urllib.request.urlopen(f"{self.url}/login", timeout=2).status == 200
        except OSError: return False

    def close(self):
        if hasattr(self, "driver"): self.driver.quit()
        os.killpg(self.server.pid, signal.SIGTERM)
        self.server.wait(30)

    def js(self, script, *given): return self.driver.execute_script(script, *given)

    def kernels(self):
        "The processes that run notebooks for this server."
        found = []
        for one in psutil.Process(self.server.pid).children(recursive=True):
            with suppress(psutil.Error):  # a killed one may be going
                if "ipykernel_launcher" in " ".join(one.cmdline()): found.append(one)
        return found

    def run_all(self):
        "Run all cells, and wait for a canvas with a photograph."
        prompts = "return [...document.querySelectorAll('.jp-InputPrompt')].map(one => one.innerText).join()"
        for _ in range(3):  # a kernel that has just connected may not take them
            self.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
            with suppress(TimeoutError):
                until(lambda: re.search("[*0-9]", self.js(prompts)), "cell that runs", 10)
                break
        until(lambda: self.js(
            f"const canvas = document.querySelector('{LABELLER} canvas');"
            "return canvas?.width && canvas.height && canvas.getContext('2d')"
            ".getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[3]"), "photograph")
        self.js("document.querySelector('.faceseg-labeller').scrollIntoView({block: 'start'})")

    def until_idle(self):
        "Answer what JupyterLab asks, and wait for a kernel."
        until(lambda: self.js(
            "const panel = window.jupyterapp.shell.currentWidget;"
            "document.querySelectorAll('.jp-Dialog button.jp-mod-accept').forEach(one => one.click());"
            "const context = panel.sessionContext;"
            "return context.isReady && context.session?.kernel?.status === 'idle'"), "kernel that is idle")

    def after_death(self):
        "Forget the old canvas, and run all cells in the new kernel."
        until(self.kernels, "new kernel")
        self.until_idle()
        self.js("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        until(lambda: self.js("return !document.querySelector('.faceseg-labeller')"), "cleared output")
        self.run_all()

    def name(self): return self.js("return document.querySelector('.faceseg-labeller select').value")

    def press(self, name):
        "Click a button of the labeller."
        self.js("document.querySelector(`.faceseg-labeller button[data-name=${arguments[0]}]`).click()", name)

    def status(self): return self.js("return document.querySelector('.faceseg-status').textContent")

    def waiting(self):
        "The edits that the browser keeps since the kernel has not written them, in their order."
        keys = self.js("return Object.keys(localStorage)")
        return sorted(key for key in keys if key.startswith("faceseg-edit-"))

    def place(self, x, y, shape):
        "Where a pixel of the photograph, shown whole, is in the window."
        box = self.js(f"const box = document.querySelector('{LABELLER} canvas').getBoundingClientRect();"
                      "return [box.left, box.top, box.width, box.height]")
        zoom = min(box[2] / shape[1], box[3] / shape[0])
        return [round(box[k] + (box[k + 2] - zoom * side) / 2 + zoom * (at + 0.5))
                for k, (at, side) in enumerate(((x, shape[1]), (y, shape[0])))]

    def color(self, x, y, shape):
        "The colour on screen at a pixel of the photograph."
        left, top = self.place(x, y, shape)
        return np.array(self.js(
            f"const canvas = document.querySelector('{LABELLER} canvas');"
            "const box = canvas.getBoundingClientRect();"
            "const at = [arguments[0] - box.left, arguments[1] - box.top, 1, 1];"
            "return [...canvas.getContext('2d').getImageData(...at).data]", left, top))

    def choose(self, class_id, tool="brush"):
        self.press(tool)
        self.js("document.querySelectorAll('.faceseg-palette button')[arguments[0]].click()", class_id)

    def stroke(self, points, shape, kind="mouse"):
        "Paint along points (x, y) of the photograph with a mouse, a pen or a finger."
        places = [self.place(*point, shape) for point in points]
        if kind == "touch":
            touch = lambda kind, points: self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {
                "type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
            touch("touchStart", places[:1])
            for place in places[1:]: touch("touchMove", [place])
            touch("touchEnd", [])
            return
        button = {"button": "left", "clickCount": 1, "pointerType": kind}
        mouse = lambda event, place, **more: self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {
            "type": event, "x": place[0], "y": place[1], "pointerType": kind, **more})
        mouse("mouseMoved", places[0])
        mouse("mousePressed", places[0], **button, buttons=1)
        for place in places[1:]: mouse("mouseMoved", place, button="left", buttons=1)
        mouse("mouseReleased", places[-1], **button)

    def suggested(self, name):
        "The landmarks of a photograph, as the labeller finds them."
        from faceseg.files import read_image
        from faceseg.labeller import first_landmarks
        return first_landmarks(read_image(next((self.home / "photographs").glob(f"{name}.*"))))[0].astype(int)

    def picture(self, name):
        self.driver.save_screenshot(str(PICTURES / f"{name}.png"))


def random_line(rng, shape, n=8):
    "Points of a stroke somewhere in a photograph."
    start, end = (np.array([rng.uniform(0.1, 0.9) * side for side in shape[::-1]]) for _ in range(2))
    return [tuple(np.rint(start + (end - start) * k / n).astype(int).tolist()) for k in range(n + 1)]


def look_at_labeller(lab, n_kills, seed):
    "Paint, undo, accept, train, open the next photograph, and kill kernels."
    from faceseg.label import reopen
    from faceseg.schema import LAPA, UNLABELLED, class_id
    lab.run_all()
    first, rng = lab.name(), random.Random(seed)
    photographs = sorted((lab.home / "photographs").iterdir())
    shape = shape_of(photographs, first)
    lab.js(MEASURE)
    lab.picture("labeller-suggestion")
    labels_of = lambda name: getattr(reopen(lab.home, name), "labels", np.full(shape, UNLABELLED))
    written = lambda: until(lambda: not lab.waiting(), "answer that the strokes are written")

    # strokes: in the files, in the chosen class, where the pointer was; undo, redo, eraser
    for kind, name in (("mouse", "hair"), ("pen", "left eyebrow"), ("touch", "lower lip")):
        lab.choose(class_id(LAPA, name))
        line = random_line(rng, shape)
        before = lab.color(*line[4], shape)
        lab.stroke(line, shape, kind)
        written()
        found = [labels_of(first)[y, x] for x, y in line]
        check(f"a stroke of a {kind} is in the files", set(found) == {class_id(LAPA, name)}, found)
        check(f"a stroke of a {kind} is on screen", (lab.color(*line[4], shape) != before).any(), before)
    latencies = lab.js("return window.latencies")
    measured = f"median {np.median(latencies):.0f}, largest {max(latencies):.0f} of {len(latencies)}"
    if n_kills < 20: print(f"       milliseconds until a stroke is on screen: {measured}", flush=True)
    else: check(f"a stroke is on screen within {LATENCY} ms ({measured})", np.median(latencies) <= LATENCY)
    lab.picture("labeller-strokes")
    whole = labels_of(first)
    lab.press("undo")
    written()
    undone = labels_of(first)
    check("undo takes a stroke away", (undone == class_id(LAPA, "lower lip")).sum() == 0)
    lab.press("redo")
    written()
    check("redo brings it back", (labels_of(first) == whole).all())
    lab.choose(1, "erase")
    lab.stroke(line, shape)
    written()
    check("the eraser takes labels away", {labels_of(first)[y, x] for x, y in line} == {UNLABELLED})
    lab.press("undo")
    lab.press("accept")
    written()
    accepted = reopen(lab.home, first)
    check("accept labels the rest", (accepted.labels != UNLABELLED).all())
    check("accept keeps the strokes", (accepted.labels == whole)[whole != UNLABELLED].all())
    lab.picture("labeller-accepted")

    look_at_tools(lab, first, shape, labels_of, written)

    # training, and the next photograph
    lab.press("train")
    until(lambda: lab.status().startswith("Trained"), "trained model")
    check(f"trains: {lab.status()}", (lab.home / "model.safetensors").exists())
    lab.press("next")
    until(lambda: lab.name() != first, "next photograph")
    check("the next photograph opens", lab.name() in {one.stem for one in photographs})
    lab.picture("labeller-next")
    lab.js("document.querySelector('input[data-name=uncertainty]').click()")
    time.sleep(0.3)
    lab.picture("labeller-uncertainty")
    lab.js("document.querySelector('input[data-name=uncertainty]').click()")
    name = lab.name()
    shape, points = shape_of(photographs, name), lab.suggested(name)
    lab.press("landmarks")
    lab.stroke([points[16], points[16] + (0, 25)], shape)  # the chin
    until(lambda: lab.status() == "The points were moved.", "prediction with other landmarks")
    lab.picture("labeller-landmarks")

    lost = [k for k in range(n_kills) if not survives_a_kill(lab, rng, photographs)]
    if n_kills: check(f"{n_kills - len(lost)} of {n_kills} killed kernels lose no stroke", not lost, lost)


def look_at_tools(lab, name, shape, labels_of, written):
    "Fill, keys, and the wheel."
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    before = labels_of(name)
    corner, n_cells = before[2, 2], lab.js("return document.querySelectorAll('.jp-Cell').length")
    lab.choose(10, "fill")
    lab.stroke([(2, 2)], shape)
    written()
    filled = labels_of(name)
    there = filled != before
    one = filled[2, 2] == 10 and set(before[there]) == {corner}
    check("fill changes one region", one, np.unique(before[there]))
    press = lambda *keys: ActionChains(lab.driver).send_keys(*keys).perform()
    ActionChains(lab.driver).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    written()
    check("Ctrl+Z takes the fill back", (labels_of(name) == before).all())
    press("b", "h")
    chosen = lab.js(f"return [...document.querySelectorAll('{LABELLER} .faceseg-on')]"
                    ".map(one => one.innerText)")
    check("keys choose tool and class", [one.split()[0] for one in chosen] == ["brush", "hair"], chosen)
    same = n_cells == lab.js("return document.querySelectorAll('.jp-Cell').length")
    check("and do nothing else in JupyterLab", same)
    x, y = lab.place(shape[1] // 2, shape[0] // 2, shape)
    color = lab.color(5, 5, shape)
    lab.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0,
                                                            "deltaY": -600})
    until(lambda: (lab.color(5, 5, shape) != color).any(), "enlarged photograph")
    lab.press("move")
    lab.js(f"document.querySelector('{LABELLER} canvas').dispatchEvent(new MouseEvent('dblclick'))")
    until(lambda: (lab.color(5, 5, shape) == color).all(), "whole photograph")
    check("the wheel enlarges, a double click shows the whole photograph", True)


def survives_a_kill(lab, rng, photographs):
    """Paint three strokes, kill the kernel, paint a fourth, start anew: whether all strokes are in the files.

    JupyterLab's notice that the kernel died may cover the canvas before the fourth: then there is none."""
    from faceseg.label import reopen
    from faceseg.schema import UNLABELLED
    name = lab.name()
    shape, before, strokes = shape_of(photographs, name), reopen(lab.home, name), []
    radius = BRUSH * max(1, max(shape) / 512)
    for k, label in enumerate(rng.sample(range(11), 4)):
        if k == 3:
            time.sleep(rng.uniform(0, 0.15))
            for one in lab.kernels(): one.kill()
        lab.choose(label)
        strokes.append((label, random_line(rng, shape)))
        earlier = lab.waiting()
        lab.stroke(strokes[-1][1], shape)
    unwritten = lab.waiting()
    if covered := not set(unwritten) - set(earlier): strokes.pop()
    lab.after_death()
    until(lambda: not lab.waiting(), "answer that the strokes are written")
    found = reopen(lab.home, name).labels
    bad = [(k, point, int(found[point[1], point[0]])) for k, (_, line) in enumerate(strokes) for point in line
           if found[point[1], point[0]] not in allowed(point, strokes, k, radius)]
    gone = 0 if before is None else ((found == UNLABELLED) & (before.labels != UNLABELLED)).sum()
    notice = " (a notice covered the last)" if covered else ""
    print(f"       {len(unwritten)} strokes were not written when the kernel died{notice}; {len(bad)} points "
          f"lost their label, and {gone} pixels of before", *([strokes, bad] if bad else []), flush=True)
    return not bad and not gone


def allowed(point, strokes, first, radius):
    "Labels that a point of a stroke may have: of it and of later strokes that pass near."
    labels = {strokes[first][0]}
    for label, line in strokes[first + 1:]:
        start, end = np.array(line[0]), np.array(line[-1])
        along = np.clip((np.array(point) - start) @ (end - start) / max(1, ((end - start) ** 2).sum()), 0, 1)
        distance = np.linalg.norm(start + along * (end - start) - point)
        if distance < radius - 2: labels = {label}  # covered
        elif distance < radius + 2: labels.add(label)  # at its edge, give or take the screen's pixels
    return labels


def shape_of(photographs, name):
    "Rows and columns of a photograph."
    from faceseg.files import read_image
    return read_image(next(one for one in photographs if one.stem == name)).shape[:2]


def look_at_reports():
    "Screenshots of the published reports, wide and narrow, without a network."
    driver = browser()
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", {
        "offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0})
    try:
        for path in sorted((ROOT / "reports").rglob("*.html")):
            for width in (1200, 400):
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                    "width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False})
                driver.get(path.as_uri())
                wide = driver.execute_script("return document.documentElement.scrollWidth")
                name = f"{path.relative_to(ROOT / 'reports').with_suffix('')}".replace("/", "-")
                check(f"{name} fits {width} pixels", wide <= width, f"{wide} pixels wide")
                driver.save_screenshot(str(PICTURES / f"{name}-{width}.png"))
    finally: driver.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="kernels to kill")
    parser.add_argument("--seed", type=int, default=0, help="of strokes and moments")
    parser.add_argument("--prior", default="none", help="'': train with rendered faces, as a person would")
    parser.add_argument("--photographs", default="", help="a folder; rendered faces without one")
    parser.add_argument("--labeller-only", action="store_true", help="no screenshots of reports")
    given = parser.parse_args()
    if lacks := missing():
        print(f"skipped: {', '.join(lacks)} not found (on Debian: apt install chromium chromium-driver)")
        sys.exit(0)
    PICTURES.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="faceseg-look-"))
    lab, settings = None, {"prior": given.prior, "photographs": given.photographs}
    try:
        lab = Lab(scratch, {key: value for key, value in settings.items() if value})
        look_at_labeller(lab, given.kills, given.seed)
    except TimeoutError as error:
        log = (scratch / "jupyter.log").read_text()[-2000:]
        check("the labeller answers in time", False, f"{error}\n{log}")
        if lab and hasattr(lab, "driver"): lab.picture("labeller-failed")
    finally:
        if lab: lab.close()
        shutil.rmtree(scratch, ignore_errors=True)
    if not given.labeller_only: look_at_reports()
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(bool(failed) or not passed)
