"""`python -m seg_pipeline.daemon`, as it was started before `runtime/` was there."""

from seg_pipeline.runtime.daemon import main

if __name__ == "__main__":
    main()
