//! The kernels: their PTX text, their names, and the parameters that each takes, in order.

/// PTX for every GPU from compute capability 5.2 on; the driver compiles it for the one at hand when the module is loaded.
pub const PTX: &str = include_str!("kernels.ptx");

/// The type of a kernel's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// A device pointer (`.u64`).
    Pointer,
    /// A count or a stride (`.u32`).
    Count,
    /// A number (`.f32`).
    Number,
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// A device pointer.
    Pointer(u64),
    /// A count or a stride.
    Count(u32),
    /// A number.
    Number(f32),
}

impl Argument {
    /// Its type.
    pub fn parameter(&self) -> Parameter {
        match self {
            Self::Pointer(_) => Parameter::Pointer,
            Self::Count(_) => Parameter::Count,
            Self::Number(_) => Parameter::Number,
        }
    }
}

/// An entry point of [`PTX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// (a, b, out, m, k, n, a_row, a_column, b_row, b_column); a thread for each element of `out[m,n]`.
    Matmul,
    /// (x, bias, rows, columns); a thread for each element of x.
    AddBias,
    /// (x, length); a thread for each element.
    Relu,
    /// (activated, gradient, length); a thread for each element.
    ReluBackward,
    /// (logits, targets, gradient, losses, rows, columns); a thread for each row.
    SoftmaxCrossEntropy,
    /// (x, out, rows, columns); a thread for each column.
    ColumnSums,
    /// (parameters, gradient, rate, length); a thread for each element.
    Sgd,
}

impl Kernel {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 7] =
        [Self::Matmul, Self::AddBias, Self::Relu, Self::ReluBackward, Self::SoftmaxCrossEntropy, Self::ColumnSums, Self::Sgd];

    /// The entry point's name in [`PTX`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::AddBias => "add_bias",
            Self::Relu => "relu",
            Self::ReluBackward => "relu_backward",
            Self::SoftmaxCrossEntropy => "softmax_cross_entropy",
            Self::ColumnSums => "column_sums",
            Self::Sgd => "sgd",
        }
    }

    /// The types of its parameters.
    pub fn parameters(self) -> &'static [Parameter] {
        use Parameter::{Count, Number, Pointer};
        match self {
            Self::Matmul => &[Pointer, Pointer, Pointer, Count, Count, Count, Count, Count, Count, Count],
            Self::AddBias => &[Pointer, Pointer, Count, Count],
            Self::Relu => &[Pointer, Count],
            Self::ReluBackward => &[Pointer, Pointer, Count],
            Self::SoftmaxCrossEntropy => &[Pointer, Pointer, Pointer, Pointer, Count, Count],
            Self::ColumnSums => &[Pointer, Pointer, Count, Count],
            Self::Sgd => &[Pointer, Pointer, Number, Count],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The entry points of the text as (name, types), read without the code that runs them.
    fn entries() -> Vec<(String, Vec<Parameter>)> {
        PTX.split(".visible .entry ")
            .skip(1)
            .map(|entry| {
                let (name, rest) = entry.split_once('(').unwrap();
                let parameters =
                    rest.split_once(')').unwrap().0.split(',').map(
                        |parameter| match parameter.split_whitespace().collect::<Vec<_>>()[..] {
                            [".param", ".u64", _] => Parameter::Pointer,
                            [".param", ".u32", _] => Parameter::Count,
                            [".param", ".f32", _] => Parameter::Number,
                            _ => panic!("{name}: parameter {parameter:?}"),
                        },
                    );
                (name.trim().to_owned(), parameters.collect())
            })
            .collect()
    }

    #[test]
    fn the_text_has_exactly_the_kernels_that_the_code_asks_for() {
        let asked: Vec<_> = Kernel::ALL.iter().map(|kernel| (kernel.name().to_owned(), kernel.parameters().to_vec())).collect();
        assert_eq!(entries(), asked);
        for (index, kernel) in Kernel::ALL.iter().enumerate() {
            assert_eq!(*kernel as usize, index, "functions are kept in this order");
        }
    }

    #[test]
    fn the_text_is_for_old_drivers_too_and_can_be_passed_to_c() {
        let statements: Vec<&str> = PTX.lines().filter(|line| line.starts_with('.')).take(3).collect();
        assert_eq!(statements, [".version 7.0", ".target sm_52", ".address_size 64"]);
        assert!(PTX.is_ascii() && !PTX.contains('\0'));
    }
}
