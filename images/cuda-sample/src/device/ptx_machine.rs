//! A machine for tests that runs the PTX text itself, thread by thread, with what a GPU would not tell: an access outside
//! of an allocation, a misaligned one, an address that two threads of a launch share, a loop without end.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::HashMap;

mod memory;
mod program;

use self::memory::{BASE, Memory, Touched};
use self::program::{Instruction, Operand, Program};
use super::DeviceError;
use super::cuda::Launcher;
use super::geometry::{Geometry, THREADS_PER_BLOCK};
use super::kernels::{Argument, Kernel, PTX};

/// A GPU of one thread at a time.
#[derive(Debug)]
pub(crate) struct PtxMachine {
    programs: HashMap<String, Program>,
    memory: RefCell<Memory>,
}

impl PtxMachine {
    /// A machine with [`PTX`] loaded.
    pub(crate) fn new() -> Self {
        let text: String = PTX.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
        let programs = text.split(".visible .entry ").skip(1).map(|entry| {
            let at = entry.find('(').unwrap();
            (entry[..at].to_owned(), Program::parse(&entry[at..]))
        });
        Self { programs: programs.collect(), memory: RefCell::default() }
    }

    fn run(&self, program: &Program, arguments: &[Argument], block: u32, thread: u32) {
        let mut memory = self.memory.borrow_mut();
        let number = block * THREADS_PER_BLOCK + thread + 1;
        let mut registers = vec![0u64; program.registers];
        let mut at = 0;
        for _ in 0..100_000 {
            let Instruction { guard, operation, operands } = &program.code[at];
            at += 1;
            let value = |operand: &Operand| match operand {
                Operand::Register(index) => registers[*index],
                Operand::Constant(value) => *value,
                Operand::BlockIndex => block.into(),
                Operand::BlockSize => THREADS_PER_BLOCK.into(),
                Operand::ThreadIndex => thread.into(),
                Operand::Parameter(index) => match arguments[*index] {
                    Argument::Pointer(value) => value,
                    Argument::Count(value) => value.into(),
                    Argument::Number(value) => value.to_bits().into(),
                },
                Operand::Label(label) => panic!("{label} is no value"),
            };
            if guard.as_ref().is_some_and(|guard| value(guard) == 0) {
                continue;
            }
            let int = |index: usize| value(&operands[index]) as u32;
            let float = |index: usize| f32::from_bits(value(&operands[index]) as u32);
            let bits = |result: f32| u64::from(result.to_bits());
            let result = match operation.as_str() {
                "ret" => return,
                "bra" => {
                    let Operand::Label(label) = &operands[0] else { panic!("bra to {operands:?}") };
                    at = program.labels[label];
                    continue;
                }
                "st.global.f32" => {
                    let word = memory.word(value(&operands[0]), 1);
                    memory.touch(word, number, true);
                    memory.words[word] = float(1);
                    continue;
                }
                "ld.global.f32" => {
                    let word = memory.word(value(&operands[1]), 1);
                    memory.touch(word, number, false);
                    bits(memory.words[word])
                }
                "mov.u32" | "mov.u64" | "mov.f32" | "ld.param.u32" | "ld.param.u64" | "ld.param.f32" | "cvta.to.global.u64" => {
                    value(&operands[1])
                }
                "mad.lo.u32" => int(1).wrapping_mul(int(2)).wrapping_add(int(3)).into(),
                "mul.lo.u32" => int(1).wrapping_mul(int(2)).into(),
                "mul.wide.u32" => u64::from(int(1)) * u64::from(int(2)),
                "add.u64" => value(&operands[1]).wrapping_add(value(&operands[2])),
                "sub.u32" => int(1).wrapping_sub(int(2)).into(),
                "div.u32" => (int(1) / int(2)).into(),
                "rem.u32" => (int(1) % int(2)).into(),
                "setp.ge.u32" => (int(1) >= int(2)).into(),
                "setp.eq.u32" => (int(1) == int(2)).into(),
                "setp.gt.f32" => (float(1) > float(2)).into(),
                "fma.rn.f32" => bits(float(1).mul_add(float(2), float(3))),
                "add.rn.f32" => bits(float(1) + float(2)),
                "sub.rn.f32" => bits(float(1) - float(2)),
                "mul.rn.f32" => bits(float(1) * float(2)),
                "div.rn.f32" => bits(float(1) / float(2)),
                "max.f32" => bits(float(1).max(float(2))),
                "neg.f32" => bits(-float(1)),
                "ex2.approx.f32" => bits(float(1).exp2()),
                "lg2.approx.f32" => bits(float(1).log2()),
                "cvt.rn.f32.u32" => bits(int(1) as f32),
                other => panic!("{other} is not known to this machine"),
            };
            let Operand::Register(target) = operands[0] else { panic!("{operation} writes to {operands:?}") };
            registers[target] = result;
        }
        panic!("a thread without end");
    }
}

impl Launcher for PtxMachine {
    fn allocate(&self, length: usize) -> Result<u64, DeviceError> {
        let mut memory = self.memory.borrow_mut();
        // Aligned as cuMemAlloc does, with an unowned gap behind, and holding garbage until written.
        let start = memory.words.len().next_multiple_of(64);
        memory.words.resize(start + length + 64, f32::NAN);
        memory.touched.resize(start + length + 64, Touched::default());
        memory.live.insert(start, length);
        Ok(BASE + 4 * start as u64)
    }

    fn free(&self, pointer: u64) {
        let freed = self.memory.borrow_mut().live.remove(&((pointer - BASE) as usize / 4));
        assert!(freed.is_some() || std::thread::panicking(), "freed twice");
    }

    fn write(&self, pointer: u64, values: &[f32]) -> Result<(), DeviceError> {
        let mut memory = self.memory.borrow_mut();
        let word = memory.word(pointer, values.len());
        memory.words[word..word + values.len()].copy_from_slice(values);
        Ok(())
    }

    fn read(&self, pointer: u64, values: &mut [f32]) -> Result<(), DeviceError> {
        let memory = self.memory.borrow();
        let word = memory.word(pointer, values.len());
        values.copy_from_slice(&memory.words[word..word + values.len()]);
        Ok(())
    }

    fn launch(&self, kernel: Kernel, geometry: Geometry, arguments: &[Argument]) -> Result<(), DeviceError> {
        self.memory.borrow_mut().launch += 1;
        let program = &self.programs[kernel.name()];
        for block in 0..geometry.blocks {
            (0..THREADS_PER_BLOCK).for_each(|thread| self.run(program, arguments, block, thread));
        }
        Ok(())
    }
}
