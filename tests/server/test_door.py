"""The pack as ComfyUI imports it."""


def test_the_pack_imports_and_lists_its_nodes(in_comfy):
    assert all(name.startswith("FaceCDM") for name in in_comfy.nodes)
    assert not hasattr(in_comfy.pack, "NODE_CLASS_MAPPINGS")


def test_the_model_folder_lists_safetensors_only(in_comfy):
    import folder_paths

    folder = in_comfy.base / "models" / "facecdm"
    folder.mkdir(exist_ok=True)
    (folder / "a.safetensors").touch()
    (folder / "notes.txt").touch()
    assert folder_paths.get_filename_list("facecdm") == ["a.safetensors"]
