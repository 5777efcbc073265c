//! [`Profile`]: what an open device can do, which is all that the choice of kernels looks at.

use serde::Serialize;

/// Who made a GPU, where that decides which kernel is fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Vendor {
    /// AMD.
    Amd,
    /// Apple.
    Apple,
    /// Arm (Mali).
    Arm,
    /// Intel.
    Intel,
    /// NVIDIA.
    Nvidia,
    /// Qualcomm (Adreno).
    Qualcomm,
    /// Another one, or a browser that does not tell.
    Other,
}

impl Vendor {
    /// From a PCI vendor id, or from the name that a browser gives where there is none.
    pub fn new(id: u32, name: &str) -> Self {
        let name = name.to_lowercase();
        let named = |part: &str| name.contains(part);
        match id {
            0x1002 | 0x1022 => Self::Amd,
            0x106b => Self::Apple,
            0x13b5 => Self::Arm,
            0x8086 => Self::Intel,
            0x10de => Self::Nvidia,
            0x5143 => Self::Qualcomm,
            _ if named("nvidia") => Self::Nvidia,
            _ if named("amd") || named("radeon") => Self::Amd,
            _ if named("intel") => Self::Intel,
            _ if named("apple") => Self::Apple,
            _ if named("qualcomm") || named("adreno") => Self::Qualcomm,
            _ if named("mali") => Self::Arm,
            _ => Self::Other,
        }
    }
}

/// A shape of cooperative matrices: `C (m × n, f32) += A (m × k, f16) × B (k × n, f16)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct MatrixShape {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
}

/// What kernels may use on a device. Kernels are chosen by this alone, so a choice can be tested without the device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The maker.
    pub vendor: Vendor,
    /// Vulkan, Metal, Dx12 or BrowserWebGpu.
    pub backend: String,
    /// Whether the "GPU" is a program on the processor, and is to be treated as one.
    pub software: bool,
    /// `enable f16;`
    pub f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Barriers of a subgroup; browsers have none.
    pub subgroup_barriers: bool,
    /// Smallest size of a subgroup (1 without subgroups).
    pub subgroup_min_size: u32,
    /// Largest size of a subgroup (1 without subgroups).
    pub subgroup_max_size: u32,
    /// Whether `dot4I8Packed` is one instruction, as far as that is known, and right.
    pub packed_dot: bool,
    /// Shapes of cooperative matrices of f16 with sums of f32; none where they are off.
    pub matrices: Vec<MatrixShape>,
    /// Whether timestamps can be written around passes.
    pub timestamps: bool,
    /// Largest binding of a storage buffer, in bytes.
    pub max_binding: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Storage buffers that a kernel may bind.
    pub max_storage_buffers: u32,
    /// Alignment of a binding's offset, in bytes.
    pub offset_alignment: u32,
    /// Workgroup memory, in bytes.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Workgroups in one dimension of a dispatch.
    pub max_workgroups: u32,
}

impl Profile {
    /// WebGPU's default limits, which every device has, and no feature: what runs with this runs anywhere.
    pub fn least() -> Self {
        Self {
            vendor: Vendor::Other,
            backend: "Vulkan".into(),
            software: false,
            f16: false,
            subgroups: false,
            subgroup_barriers: false,
            subgroup_min_size: 1,
            subgroup_max_size: 1,
            packed_dot: false,
            matrices: Vec::new(),
            timestamps: false,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            max_storage_buffers: 8,
            offset_alignment: 256,
            workgroup_memory: 16 << 10,
            max_invocations: 256,
            max_workgroups: 65_535,
        }
    }

    /// Whether there are cooperative matrices of this shape.
    pub fn has_matrix(&self, m: u32, n: u32, k: u32) -> bool {
        self.matrices.contains(&MatrixShape { m, n, k })
    }
}
