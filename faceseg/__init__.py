__version__ = "0.1.0"

try: import cv2 as _cv2
except ImportError as e:  # the builds with windows, which other packages bring, lie in the headless one's folder and need libGL
    if ".so" not in str(e): raise
    raise ImportError(f"OpenCV does not load ({e}); put the build without windows back: pip install --force-reinstall --no-deps opencv-python-headless") from e
