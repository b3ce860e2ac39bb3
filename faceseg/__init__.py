__version__ = "0.1.0"

try: import cv2  # noqa: F401
except ImportError as e:
    # other packages bring OpenCV's builds with windows, which overwrite the headless build and need libGL
    if ".so" not in str(e): raise
    raise ImportError(f"OpenCV does not load ({e}); put the build without windows back: "
                      "pip install --force-reinstall --no-deps opencv-python-headless") from e
