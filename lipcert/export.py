"""`python -m lipcert.export`: a network as plain torch, `torch.export` and ONNX, with the record that is about it."""

from lipcert.commands.export import main

if __name__ == "__main__":
    main()
