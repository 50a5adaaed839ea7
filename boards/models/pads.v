// What stands around a board's core, for simulation: pads, and PLLs whose output is their input.
// So the top's clock pin runs at the core's clock. After the documents of the vendors: Lattice
// iCE40 Technology Library, ECP5 FPGA Libraries Reference Guide, Gowin Clock User Guide UG286.

module SB_IO #(
  parameter [5:0] PIN_TYPE = 6'b000000,
  parameter PULLUP = 0,
  parameter IO_STANDARD = "SB_LVCMOS"
) (
  inout PACKAGE_PIN,
  input D_OUT_0,
  input OUTPUT_ENABLE,
  output D_IN_0
);
  // Only inputs (bits 5:2 are 0) and outputs without registers are used.
  assign D_IN_0 = PACKAGE_PIN;
  generate
    if (PIN_TYPE[5:2] == 4'b0110) assign PACKAGE_PIN = D_OUT_0;
    else if (PIN_TYPE[5:2] == 4'b1010) assign PACKAGE_PIN = OUTPUT_ENABLE ? D_OUT_0 : 1'bz;
  endgenerate
endmodule

module SB_GB_IO #(
  parameter [5:0] PIN_TYPE = 6'b000000,
  parameter PULLUP = 0,
  parameter IO_STANDARD = "SB_LVCMOS"
) (
  inout PACKAGE_PIN,
  output GLOBAL_BUFFER_OUTPUT
);
  assign GLOBAL_BUFFER_OUTPUT = PACKAGE_PIN;
endmodule

module SB_PLL40_PAD #(
  parameter FEEDBACK_PATH = "SIMPLE",
  parameter DIVR = 0,
  parameter DIVF = 0,
  parameter DIVQ = 0,
  parameter FILTER_RANGE = 0
) (
  inout PACKAGEPIN,
  input RESETB,
  input BYPASS,
  output PLLOUTGLOBAL,
  output LOCK
);
  assign PLLOUTGLOBAL = PACKAGEPIN;
  assign LOCK = RESETB & ~BYPASS;
endmodule

module SB_PLL40_CORE #(
  parameter FEEDBACK_PATH = "SIMPLE",
  parameter DIVR = 0,
  parameter DIVF = 0,
  parameter DIVQ = 0,
  parameter FILTER_RANGE = 0
) (
  input REFERENCECLK,
  input RESETB,
  input BYPASS,
  output PLLOUTGLOBAL,
  output LOCK
);
  assign PLLOUTGLOBAL = REFERENCECLK;
  assign LOCK = RESETB & ~BYPASS;
endmodule

module IB (input I, output O);
  assign O = I;
endmodule

module OBZ (input I, input T, output O);
  assign O = T ? 1'bz : I;
endmodule

module EHXPLLL #(
  parameter CLKI_DIV = 1,
  parameter CLKFB_DIV = 1,
  parameter CLKOP_DIV = 1,
  parameter CLKOP_CPHASE = 0,
  parameter CLKOP_FPHASE = 0,
  parameter FEEDBK_PATH = "CLKOP",
  parameter CLKOP_ENABLE = "ENABLED",
  parameter PLLRST_ENA = "DISABLED",
  parameter INTFB_WAKE = "DISABLED",
  parameter STDBY_ENABLE = "DISABLED",
  parameter DPHASE_SOURCE = "DISABLED",
  parameter OUTDIVIDER_MUXA = "DIVA"
) (
  input CLKI,
  input CLKFB,
  input RST,
  input STDBY,
  input PHASESEL0,
  input PHASESEL1,
  input PHASEDIR,
  input PHASESTEP,
  input PHASELOADREG,
  input PLLWAKESYNC,
  input ENCLKOP,
  output CLKOP,
  output LOCK
);
  assign CLKOP = CLKI;
  assign LOCK = ~RST;
endmodule

module IBUF (input I, output O);
  assign O = I;
endmodule

module TBUF (input I, input OEN, output O);
  assign O = OEN ? 1'bz : I;
endmodule

module rPLL #(
  parameter FCLKIN = "27",
  parameter DEVICE = "GW1N-9C",
  parameter IDIV_SEL = 0,
  parameter FBDIV_SEL = 0,
  parameter ODIV_SEL = 8,
  parameter DYN_IDIV_SEL = "false",
  parameter DYN_FBDIV_SEL = "false",
  parameter DYN_ODIV_SEL = "false",
  parameter DYN_DA_EN = "false",
  parameter DYN_SDIV_SEL = 2,
  parameter PSDA_SEL = "0000",
  parameter DUTYDA_SEL = "1000",
  parameter CLKFB_SEL = "internal",
  parameter CLKOUT_BYPASS = "false",
  parameter CLKOUTP_BYPASS = "false",
  parameter CLKOUTD_BYPASS = "false",
  parameter CLKOUT_FT_DIR = 1'b1,
  parameter CLKOUTP_FT_DIR = 1'b1,
  parameter CLKOUT_DLY_STEP = 0,
  parameter CLKOUTP_DLY_STEP = 0,
  parameter CLKOUTD_SRC = "CLKOUT",
  parameter CLKOUTD3_SRC = "CLKOUT"
) (
  input CLKIN,
  input CLKFB,
  input RESET,
  input RESET_P,
  input [5:0] FBDSEL,
  input [5:0] IDSEL,
  input [5:0] ODSEL,
  input [3:0] PSDA,
  input [3:0] DUTYDA,
  input [3:0] FDLY,
  output CLKOUT,
  output LOCK
);
  assign CLKOUT = CLKIN;
  assign LOCK = ~(RESET | RESET_P);
endmodule
