"""What a network takes in a web page: python benchmarks/browser.py [--write]

Exports each from its checkpoint, and runs it in headless Chromium by ONNX Runtime Web, one image, one thread, as the
live page does; the best of several runs, so that a busy moment of the machine hurts none. --write keeps the numbers
where the book reads them. Needs Chromium with its driver, and the scripts that `make scripts` fetches.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import threading
from datetime import date
from pathlib import Path

from rounds import record_path, write
from selenium import webdriver

from e2vit.experiments import EXPERIMENTS
from e2vit.experiments.records import processor
from e2vit.export import export_run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "tools"))
from pdf import browser, server  # noqa: E402

RUNTIME = ROOT / "book" / "node_modules" / "onnxruntime-web" / "dist"
NETWORKS = {  # experiment → runs
    "rotmnist/vit": 100,
    "rotmnist/gcnn-p4cnn": 100,
    "rotmnist/hybrid-c4": 100,
    "rotmnist/cayley-c4-tenth": 2,
}
MEASURE = """
const [file, rounds, done] = arguments;
(async () => {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = '/';
  const session = await ort.InferenceSession.create(file, {executionProviders: ['wasm']}), times = [];
  const images = new ort.Tensor('float32', Float32Array.from({length: 784}, Math.random), [1, 1, 28, 28]);
  for (let k = 0; k <= rounds; k++) {
    const before = performance.now();
    await session.run({images});
    times.push(performance.now() - before);
  }
  done(Math.min(...times.slice(1)));
})().catch(reason => done(String(reason)));
"""


def measure(folder: Path, files: dict[str, str]) -> tuple[dict[str, float], str]:
    """Milliseconds for one image, by experiment; and the browser's version."""
    options = webdriver.ChromeOptions()
    options.binary_location = browser() or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"):
        options.add_argument(flag)
    with server(folder) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        window = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        window.command_executor.client_config.timeout = 900  # seconds, for the slowest
        window.set_script_timeout(800)
        window.get(f"http://127.0.0.1:{serving.server_port}/index.html")
        found = {name: window.execute_async_script(MEASURE, file, NETWORKS[name]) for name, file in files.items()}
        version = window.capabilities["browserVersion"]
        window.quit()
        serving.shutdown()
    if wrong := [f"{name}: {said}" for name, said in found.items() if isinstance(said, str)]:
        raise SystemExit("; ".join(wrong))
    return found, version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the numbers for the book")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path in RUNTIME.iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "index.html").write_text("<!doctype html><script src='ort.wasm.min.js'></script>")
        files = {name: f"{number}.onnx" for number, name in enumerate(NETWORKS)}
        for name, file in files.items():
            export_run(EXPERIMENTS[name], folder / file)
        milliseconds, version = measure(folder, files)
    record = {
        "date": date.today().isoformat(),
        "device": processor(),
        "system": platform.system(),
        "browser": f"Chromium {version}",
        "networks": {name: {"milliseconds": round(milliseconds[name], 2)} for name in NETWORKS},
    }
    print(json.dumps(record, indent=1))
    if options.write:
        write(record_path("browser"), record)


if __name__ == "__main__":
    main()
