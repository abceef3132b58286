"""`python -m seg_pipeline.worker`, as it was started before `runtime/` was there."""

from seg_pipeline.runtime.worker import main

if __name__ == "__main__":
    main()
