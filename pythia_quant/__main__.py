"""`python -m pythia_quant` is the same program as `pythia-quant`."""

from pythia_quant.cli.main import main

if __name__ == "__main__":
    main()
